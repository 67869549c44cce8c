"""A stand-in for the Gemini API, for machines that can't or need not reach Google's servers."""
