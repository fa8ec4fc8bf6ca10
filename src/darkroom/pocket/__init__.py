"""The pocket model: a complete Qwen-Image-Edit family in miniature, built, trained and judged here."""
