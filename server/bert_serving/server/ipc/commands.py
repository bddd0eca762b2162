"""Messages and addresses between the server's own processes. Nothing here is seen by a client.

============  =======================  ==================================================================
socket        from -> to               messages
============  =======================  ==================================================================
dispatch      worker -> ventilator     HELLO json                    I am here, and this is what I can take
              worker -> ventilator     FAILED batch_id kind text     the engine refused this batch
              ventilator -> worker     a batch                       see :class:`.messages.BatchMessage`
results       worker -> sink           its vectors                   see :class:`.messages.Result`
link          ventilator -> sink       PART job + texts               these texts of a job are on their way; of a job
                                                                      that is whole in a batch, it travels with that
              ventilator -> sink       FAIL job                       it has been answered with an error
              ventilator -> sink       AGAIN ticket job              asked for again: is its answer still to come?
              ventilator -> sink       SAY identity frames           publish this as it is
              ventilator -> sink       GREET identity frames         the same, to one who may not be subscribed yet
              ventilator -> sink       HELLO epoch [nonce]           I am new, and know no job from before; with the
                                                                      nonce of a WHO: here is all that you should know
              sink -> ventilator       WHO nonce                     I am new: what is under way?
              sink -> ventilator       DONE batch_id began           its rows have arrived
              sink -> ventilator       HELD ticket job               its answer is still to come
              sink -> ventilator       PUBLISHED ticket job          its answer was published before you asked
              sink -> ventilator       DRIFT json                    what :class:`VectorDrift` has found, for the status
              sink -> ventilator       GONE identity                 nobody has read there for long: drop its requests
control       part -> supervisor       READY, BEAT, DRAINED, FATAL, TERMINATE, IDLE worker
              supervisor -> part       DRAIN, STOP, LOST part, FACTS json, RETIRE worker
============  =======================  ==================================================================

On the link a message holds all words that are to be said at a time, packed by ``messages.pack_words``. Numbers in words
are little-endian 64-bit integers. There is no pickle. Times are nanoseconds of ``time.monotonic_ns()``, which is one
clock for all processes of a machine.
"""

from __future__ import annotations

import struct
from typing import Any

HELLO, FAILED = b"HELLO", b"FAILED"
PART, FAIL, SAY, DONE, WHO, GONE = b"PART", b"FAIL", b"SAY", b"DONE", b"WHO", b"GONE"
DRIFT = b"DRIFT"
AGAIN, HELD, PUBLISHED, GREET = b"AGAIN", b"HELD", b"PUBLISHED", b"GREET"
READY, BEAT, DRAINED, FATAL, TERMINATE = b"READY", b"BEAT", b"DRAINED", b"FATAL", b"TERMINATE"
DRAIN, STOP, LOST, FACTS = b"DRAIN", b"STOP", b"LOST", b"FACTS"
RETIRE, IDLE = b"RETIRE", b"IDLE"

_U64 = struct.Struct("<Q")


def u64(number: int) -> bytes:
    return _U64.pack(number)


def from_u64(frame: Any) -> int:
    return int(_U64.unpack(bytes(frame))[0])
