"""The platform: which artifacts exist, what they depend on, where they run and what must hold. No mathematics here."""
