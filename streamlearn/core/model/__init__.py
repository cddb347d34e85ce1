"""The model: learning and answering, and its way into bytes and back."""
