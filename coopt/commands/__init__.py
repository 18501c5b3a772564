"""The command line's table, its parser, what it prints, and the few verbs that belong to no room below."""
