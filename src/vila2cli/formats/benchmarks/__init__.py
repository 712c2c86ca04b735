"""Published benchmark files as evaluation tasks.

`questions` says what they become, `write` writes it; `short`, `yesno`, `choice`, `images` (captions and boxes),
`judged` and `amber` read the files, named after how their questions are answered.
"""
