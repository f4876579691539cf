"""The paper's studies: resumable, with their provenance. `fragility run STUDY --profile P` on the command line.

- `piece`: what a study declares; `store`: its table on disk; `run`: what is missing of it, computed and stored;
  `verify`: stored rows computed again; `cluster`: several machines; `machine`: repeatable numbers; `catalogue`: all
  studies by name.
- `attacks` (chapter 2), `influence` (3), `curvature` (4 and 5), `defenses` (6): a module per study, beside it `setup`.
- `evidence`, `claims`, the rules: what the tables say about every claim of the paper.
"""
