"""Which modalities take part, and what does it cost?"""
