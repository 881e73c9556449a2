import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from mmfuse.training.sharding import AXES, batch_shards, make_mesh, place, rows_of, shard_by_rules
from mmfuse.types import ConfigError


@pytest.mark.parametrize(
    ("asked", "shape"),
    [
        ({}, (8, 1, 1)),
        ({"data": -1, "fsdp": 2}, (4, 2, 1)),
        ({"data": 2, "fsdp": 2, "tensor": 2}, (2, 2, 2)),
        ({"data": 1, "fsdp": -1, "tensor": 4}, (1, 2, 4)),
        ({"data": 3}, (3, 1, 1)),
    ],
)
def test_mesh_takes_the_devices_that_are_asked_for(asked, shape):
    mesh = make_mesh(**asked)
    assert tuple(mesh.shape.values()) == shape
    assert batch_shards(mesh) == shape[0] * shape[1]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"data": 16}, "needs 16 devices, and there are 8"),
        ({"data": -1, "tensor": 3}, "needs a multiple of 3 devices, and there are 8"),
        ({"data": -1, "fsdp": -1}, "one of them may be -1"),
        ({"data": 0}, "sizes are positive"),
    ],
)
def test_mesh_that_the_machine_does_not_have_is_refused(asked, words):
    with pytest.raises(ConfigError, match=words):
        make_mesh(**asked)


def test_each_of_several_processes_has_devices(monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(ConfigError, match="needs 4 of the 8 devices of all processes: use all"):
        make_mesh(data=4)
    assert make_mesh(data=-1).size == 8


def test_rules_align_at_the_right_so_that_a_scanned_axis_stays_whole():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    tree = {"kernel": jnp.zeros((4, 6)), "scanned": {"kernel": jnp.zeros((3, 4, 6))}, "step": jnp.zeros(())}
    found = shard_by_rules([("kernel", ("fsdp", "tensor")), (".*", ())], tree, mesh)
    assert found["kernel"].spec == PartitionSpec("fsdp", "tensor")
    assert found["scanned"]["kernel"].spec == PartitionSpec(None, "fsdp", "tensor")
    assert found["step"].spec == PartitionSpec()


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (("fsdp", None), r"kernel has the shape \(5, 6\), whose 5 does not divide by mesh.fsdp=2"),
        (("model", None), "names the mesh axis 'model'; there are: data, fsdp, tensor"),
        ((None, None, "fsdp"), "more axes than kernel"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused_by_name(rule, words):
    with pytest.raises(ConfigError, match=words):
        shard_by_rules([(".*", rule)], {"kernel": jnp.zeros((5, 6))}, make_mesh(data=4, fsdp=2))


def test_place_splits_the_rows_over_both_data_axes_in_order():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    rows = np.arange(24).reshape(8, 3)
    placed = place({"rows": rows}, mesh)["rows"]
    np.testing.assert_array_equal(np.asarray(placed), rows)
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 3)}
    assert isinstance(placed, jax.Array)


@pytest.mark.parametrize(
    ("shape", "order", "hosts", "expected"),
    [
        ((2, 2, 2), (0, 1, 2, 3, 4, 5, 6, 7), 2, ([0, 1, 2, 3], [4, 5, 6, 7])),
        ((2, 1, 4), (0, 1, 2, 3, 4, 5, 6, 7), 4, ([0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 7])),
        ((8, 1, 1), (0, 2, 4, 6, 1, 3, 5, 7), 2, ([0, 1, 4, 5], [2, 3, 6, 7])),
        ((1, 1, 8), (7, 6, 5, 4, 3, 2, 1, 0), 2, ([0, 1, 2, 3, 4, 5, 6, 7],) * 2),
    ],
    ids=["each has its own", "tensor spans two", "dealt out in turn", "all have all"],
)
def test_the_rows_of_a_host_are_those_that_its_devices_hold(shape, order, hosts, expected):
    """Hosts have the devices of the machine in turn, which the mesh has in an order of its own."""
    devices = np.array(jax.devices())
    mesh = Mesh(devices[list(order)].reshape(shape), AXES)
    assert [rows_of(its, mesh, 8) for its in devices.reshape(hosts, -1)] == list(expected)
