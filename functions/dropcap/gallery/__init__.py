"""The gallery: a page to drop pictures on and to find them again. `app.py` routes its requests."""
