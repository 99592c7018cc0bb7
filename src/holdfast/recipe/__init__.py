"""What the user wrote, checked and completed: every value with its origin.

`loader` takes a recipe's `tree` through these steps, one after another; none of them calls `loader` or a later step,
except that an override asks `stages` which stage a name means:

1. `yaml_reader`: the text becomes a tree, each value with its line.
2. `overrides`: `a.b=value` of the command line is put into it.
3. `aliases`, by the tables of `peers`: other tools' names become ours.
4. `stages`, and `shorthand` for each of them: the choices of methods and presets, and derived defaults, are filled in.
5. `schema`, with `data_section` and `rules`: the tree's data is validated into a `Recipe`.
6. `messages`: what is wrong with it, in the user's words.

The way back are `yaml_writer` (the resolved recipe), `changes` (how two differ) and `template` (`holdfast init`).
`in_memory` names objects that the Python API is given. `Recipe(...)` in Python goes through steps 3 to 5.
"""
