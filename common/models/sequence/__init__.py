"""Networks for items made of several images, called with the images and with which of them are there."""
