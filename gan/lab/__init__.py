"""The vanishing-gradient lab: each claim as an experiment that runs in seconds, draws itself and checks itself.

`python -m gan.cli lab` lists the experiments, `lab NAME` runs one (`gan.lab.command`). An experiment is one file here;
its docstring explains it in plain words, the first line being its title. `loss_curves` is the shortest, to read first
and to copy from. It has, besides its docstring:

- `REFERENCE`: where the claim comes from.
- `MATHEMATICS`: some ten lines, in plain text.
- `run(seed, progress, ...)`: does it, and returns its data and its checks, a `Result`. What the checks hinge on is an
  argument, so that one can see them fail.
- `figure(result)`: draws that data. `figure(run(...)).savefig("try.png")` shows what another ingredient does.

`experiment` has the words for data and checks, `figures` the common style; `report` writes the files of one experiment,
`page` the page of all.
"""

# Name to seconds on one core, in the order of the page.
EXPERIMENTS = {
    "descent": 4,
    "depth": 11,
    "training_depth": 18,
    "loss_curves": 1,
    "perfect_discriminator": 60,
    "critic": 4,
    "weight_clipping": 9,
    "approximate_r1": 2,
    "dirac": 7,
    "many_paths": 10,
    "article": 60,
    "clipping": 14,
    "exploding": 5,
}
