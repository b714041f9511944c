from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka import KafkaError, KafkaException

from analytics.lake.tables import Lake
from stagekeeper.embedded.status import PipelineStatus
from streams.broker import BrokerError
from streams.lag import Backlog

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "error",
    [BrokerError("it did not hand out its last records"), KafkaException(KafkaError(KafkaError._TIMED_OUT))],  # noqa: SLF001
    ids=["embedded", "kafka"],
)
def test_a_broker_that_does_not_say_what_it_holds_is_waited_for(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[int | Exception] = [error, 3, 0]

    def records_left(_backlog: Backlog, _lake: Lake) -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(Backlog, "records_left", records_left)
    Lake.open(str(tmp_path / "lake"))
    with PipelineStatus(str(tmp_path / "lake"), "127.0.0.1:1", "log", judged=False) as status:
        said = status.outstanding()
        assert said is not None
        assert said.startswith("the broker does not say what it holds (")
        assert status.outstanding() == "3 records are not in the lake yet"
        assert status.outstanding() is None
