from trainer import config, experiment


def test_every_key_is_shown_with_type_default_and_meaning(cli):
    status, out, _ = cli("describe")
    assert status == 0
    assert "  train.learning_rate: float = 5e-05\n      The highest learning rate." in out
    assert "  task.threshold: float or null = null" in out
    for name, section in experiment.schema("classification").items():
        meanings = config.documentation(section)
        for field in config.fields_of(section):
            assert f"  {name}.{field}: " in out and meanings[field], f"{name}.{field} has no docstring under it"


def test_a_config_is_shown_resolved(cli, config_file):
    status, out, _ = cli("describe", f"--config={config_file}", "--set=train.seed=5")
    assert status == 0 and "seed: 5" in out and "batch_size: 8" in out
    assert cli("describe", "--config=/no/file.yaml")[2] == "error: --config: no file /no/file.yaml\n"
