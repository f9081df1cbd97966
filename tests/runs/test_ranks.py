"""What several processes of a run do together; here they are forked, and meet as under DDP on the CPU."""

import os
import traceback

import numpy as np
import pytest
import torch
from pytorch_lightning.utilities import rank_zero_only

from whycluster import UserError
from whycluster.clustering.how_many import HowMany
from whycluster.runs import clusterers
from whycluster.runs.ranks import by_first, leave_group


@pytest.fixture
def in_two_processes(tmp_path, monkeypatch):
    """Runs a function of the rank in two processes, and returns whether none of them has raised."""

    def child(work, rank):
        status = 1
        try:
            rank_zero_only.rank = rank
            place = f"file://{tmp_path}/meeting"
            torch.distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=2)
            work(rank)
            leave_group()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def run(work):
        started = []
        for rank in range(2):
            process = os.fork()
            if not process:
                child(work, rank)
            started.append(process)
        return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in started] == [0, 0]

    return run


def refuse(rank):
    raise UserError(f"refused by {rank}")


def test_all_processes_have_the_result_of_the_first(in_two_processes):
    def check(rank):
        assert by_first(lambda: [rank, "a"]) == [0, "a"]
        assert by_first(lambda: None) is None
        with pytest.raises(UserError, match="refused by 0"):
            by_first(lambda: refuse(rank))
        assert by_first(lambda: rank) == 0  # and none is left behind

    assert in_two_processes(check)
    assert not in_two_processes(refuse)


def test_one_process_alone_has_its_own_result():
    assert by_first(lambda: 3) == 3
    with pytest.raises(UserError, match="refused by 7"):
        by_first(lambda: refuse(7))


def test_processes_that_would_choose_differently_fit_the_same_number_of_clusters(in_two_processes, monkeypatch):
    class Features:
        n_features = 2

        def __len__(self):
            return 9

        def rows(self, numbers):
            return np.zeros((len(numbers), 2))

    def check(rank):
        monkeypatch.setattr(clusterers, "choose_n_clusters", lambda *_: HowMany(3 + rank, True, "clear", []))
        number, figures = clusterers._chosen("2-5", Features(), None, seed=0)
        assert (number, figures["how_many_verdict"]) == (3, "clear")

    assert in_two_processes(check)
