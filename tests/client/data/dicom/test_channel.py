"""How long a decoding child may keep its site waiting."""

import os

from salus.client.data.dicom.channel import LONGEST_S, Channel


def test_a_child_that_asks_for_a_file_again_and_again_gets_no_more_than_the_longest_time() -> None:
    channel = Channel(*os.pipe())
    channel.begin(1000.0, 60.0)
    channel.extend(5.0)
    assert channel.deadline == 1065.0
    for _ in range(100_000):  # as many questions as one operation may have, each about half a gigabyte
        channel.extend(50.0)
    assert channel.deadline == 1000.0 + LONGEST_S
    channel.begin(2000.0, 2 * LONGEST_S)  # an operator's own longer limit stays
    channel.extend(1.0)
    assert channel.deadline == 2000.0 + 2 * LONGEST_S
    channel.close()
