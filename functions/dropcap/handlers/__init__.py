"""HTTP and event handlers of the deployed functions, the gallery excepted."""
