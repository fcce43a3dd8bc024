"""What one transition costs beside the raw driver, and beside other libraries."""
