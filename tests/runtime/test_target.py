from trainer.runtime.target import machine_target, traced_target, tracing_for


def test_the_innermost_scope_decides():
    assert machine_target() == "cpu" == traced_target()
    with tracing_for("tpu"):
        with tracing_for("gpu"):
            assert traced_target() == "gpu"
        assert traced_target() == "tpu"
    assert traced_target() == "cpu"


def test_the_fastest_device_of_a_machine(monkeypatch):
    monkeypatch.setattr("tensorflow.config.list_logical_devices", lambda kind: ["x"] if kind in ("CPU", "GPU") else [])
    assert machine_target() == "gpu"
