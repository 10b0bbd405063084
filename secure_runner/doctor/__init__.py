"""``secure-runner doctor``: finds what is wrong with a party's set-up, and says what to do about it.

Each check gives findings (:mod:`secure_runner.doctor.findings`). Some look at this party alone
(:mod:`secure_runner.doctor.own`), the others at the way to its peers (:mod:`secure_runner.doctor.peers`).
"""
