"""Other state machines, each on a table with the columns and indexes of ContainerJob."""
