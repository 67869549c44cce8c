"""What tests and developer tools share: a browser, a model card, released schemas, screenshots."""
