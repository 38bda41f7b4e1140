from tests.preparation.test_rows import job_of


def test_a_job_gives_its_rows_in_named_chunks(config_file, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.preparation.chunks.ROWS_PER_CHUNK", 10)
    job = job_of(config_file, tmp_path)
    chunks = list(job.chunks())
    assert [name for name, _ in chunks] == [f"train/{number}" for number in range(7)]
    assert sum(len(rows) for _, rows in chunks) == 64


def test_few_chunks_need_one_process(config_file, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.preparation.chunks.ROWS_PER_CHUNK", 10)
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    for limit, expected in ((7, 1), (6, 5)):
        first, named, workers = job_of(config_file, tmp_path).chunks_and_workers(limit)
        assert workers == expected and len(list(named)) == 7 and len(first) == 7
    assert job_of(config_file, tmp_path, "data.workers=3").chunks_and_workers(7)[2] == 3
