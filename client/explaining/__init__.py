"""Why a finished model says what it says about an image or row: maps, their checks, and a page that stays at the site."""
