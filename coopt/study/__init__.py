"""From a question to an answer. The floors, from below; imports only go down:

`given` what is asked; `screened` and `scored` what is priced, in millions and against what was published; `timed` what
a clock or a compiler says, `told` what is said of one design; `ranking`; `chips` with shapes and layouts, the `answer`
of a search; `main` the loop; and what else a command does.
"""
