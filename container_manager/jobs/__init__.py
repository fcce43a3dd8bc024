"""What describes a job: values and rules, without the database."""
