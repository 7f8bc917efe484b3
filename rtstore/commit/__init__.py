"""The parts of the commit protocol, which `rtstore.commit.writer` puts together and recovery uses again.

group         the queue in front of the writer lock: batches that share a flush
admission     step 2: what a batch must pass before it is logged
keeping       evidence of what somebody else wrote, before it is replaced
redo_log      step 3: everything that must survive
superseding   step 4 for batches that were logged together
publication   steps 4 and 5, forward and back
left_over     what a dead writer left, finished by the next one
adoption      a file that was changed by hand as the draft of a batch
"""
