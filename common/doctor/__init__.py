"""`salus doctor`: finds out why a site or a coordinator does not work, and says it in words for the person who can mend it."""
