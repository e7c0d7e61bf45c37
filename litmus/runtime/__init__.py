"""What a program runs on: device, precision, compilation, memory and hardware. Nothing here knows a model."""
