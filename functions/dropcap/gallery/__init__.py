"""The page to drop pictures on: `app.py` answers its requests; the other files each do one thing for it."""
