"""mailfarm prove: break a mailfarm under load, and judge from outside whether mail it acknowledged is gone.

=================  =================================================================================================
``target``         what is proved: a Target of Parts, and the Options to set it up with
``processes dev``  targets: a process each on this machine, or one ``mailfarm dev``
``stack docker``   a target: one that is deployed, through Docker; ``unreachable``: what cuts a network there
``servers``        Redis, Sentinel and Postgres of one's own; ``certificate``: what services present that must
``wire``           a TCP relay between two parts that can be cut, stalled, slowed; ``wire_link``: a connection on it
``announced``      what Sentinel says of where the queue is, led through such relays
``tmpfs``          a small file system that can be filled
``child``          processes that end with the one that started them, and how to wait for them
``watcher``        a child that ends what stands still when the one who stopped it is gone
``smtp``           the client; ``traffic``: many of them, as a process of its own
``sender``         mail of our own beside it: probes, and what a fault sends itself
``follower``       consumers of events, as a process of its own; ``websocket``: the client of one kind
``ledger``         what clients were told
``trace``          strace beside processes: their system calls, made slow, made to fail, or deadly
``order``          the order oracle: what was confirmed was synced before
``faults/``        what is broken, a module each family
``hearing``        what consumers were told, held against what is there
``oracle``         what the ledger says was promised, compared with what the API gives back
``run``            a target, traffic and faults, and then the oracle
``campaign``       which faults share a target; one run after the other, or ``beside`` one another
``report``         a row for each fault, what is wrong, and whether it is a proof; ``page``: the same as HTML;
                   ``course``: what clients were told, over time
``progress``       what it shows while it runs
``command``        the command line; ``stack_options``: what it is told of a stack
=================  =================================================================================================
"""
