from trainer.run.own_process import call


def test_the_exit_status_comes_back(capfd):
    assert call(["nonsense"]) == 2 and "unknown command 'nonsense'" in capfd.readouterr().err
    assert call(["--help"]) == 0
