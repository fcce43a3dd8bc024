"""What the tables are made of beside Django's own: the column of a name, indexes of some rows, the unique key."""
