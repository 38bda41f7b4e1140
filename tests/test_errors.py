from trainer.errors import suggestion


def test_suggests_only_what_is_close():
    assert suggestion("classificaton", ["classification", "tagging"]) == "; did you mean 'classification'?"
    assert suggestion("zzz", ["classification"]) == ""
