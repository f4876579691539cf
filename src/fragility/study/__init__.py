"""The paper's studies: resumable, with their provenance. `fragility run STUDY --profile P` on the command line.

- `piece`: what a study declares; `store`: its table on disk; `run`: what is missing of it, computed and stored;
  `verify`: stored rows computed again; `cluster`: several machines; `machine`: repeatable numbers; `catalogue`: all
  studies by name.
- `attacks` (chapter 2), `influence` (3), `curvature` (4 and 5), `defenses` (6), `interpretable` (8),
  `memorisation` (9): a module per study, beside it `setup`.
- `claims` (with `claims.toml`): the paper's claims; `rules` in each chapter: what the tables say about them; `verdict`,
  `ledger`: how that becomes a verdict and a page; `identities`: claims that are computed, not stored.
"""
