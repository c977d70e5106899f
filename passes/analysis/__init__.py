"""Passes that compute facts and annotate them; they change no operator."""
