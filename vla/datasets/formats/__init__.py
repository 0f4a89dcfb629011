"""Other people's data formats, read and written without their libraries: RLDS, LeRobot, HDF5, WebDataset, question sets."""
