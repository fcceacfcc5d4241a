"""Networks that are given an image, a row and a text, of which a patient may lack some; see `tasks.fusion`."""
