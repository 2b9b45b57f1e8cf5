"""Export of trained models: ONNX, torch.export and Hub folders, compared with the model before they are kept."""
