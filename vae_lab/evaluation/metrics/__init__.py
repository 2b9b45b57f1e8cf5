"""What a trained model is worth, in numbers: tensors in, numbers with their intervals out."""
