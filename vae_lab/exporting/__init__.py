"""Export of trained models as ONNX files and programs of torch.export, compared with the model before they are kept."""
