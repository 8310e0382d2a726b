"""Plain models. They know nothing of evolution: any of them runs under backprop too."""
