def test_x(pipeline):
    pass
