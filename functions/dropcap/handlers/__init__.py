"""HTTP and event handlers of the deployed functions, except the gallery."""
