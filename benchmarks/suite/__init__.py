"""The benchmark suite: our loops and transports beside asyncio, uvloop and ZeroMQ.

    make bench                      every row, some eight minutes
    make bench ARGS="--quick"       fewer rounds
    make bench ARGS="--only echo"   the rows whose names hold "echo"

A row of `table` names contenders.  Each contender is a process of its own (`worker`) that
sets itself up once and then waits: whoever measures (`measure`) tells one after the other
to run one sample, so that nothing runs beside it.  A round has one sample of each
contender; the order rotates from round to round.  What is reported is the ratio of two
contenders within a round: its median, its quartiles and a bootstrap interval of the median.
Samples are short, some 20 ms, and many: weather that lasts longer than that meets
neighbours alike.

pyperf's own runner finishes one benchmark before it begins the next, minutes later on a
machine that other people use too, and so cannot alternate.  What is taken from it is its
data format with the machine's metadata: ``benchmarks/results.json`` can be read by
``python -m pyperf show``, ``hist`` and ``stats``; each contender has one run, whose values
are its samples in the order of the rounds.

glibc's malloc thresholds are the same for all and set before the interpreters start: their
adaptation alone changes rates twofold.
"""
