"""What is asked: a study, a design or a plan in words or files, as nouns, spaces and jobs."""
