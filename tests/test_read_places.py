"""Which latents are read right, place by place, by hand."""

import torch
from read_places import shares_said


def test_shares_by_hand():
    meant = torch.tensor([[5, 6, 7], [5, 8, -100]])
    tokens = torch.tensor([[[5, 6, 6], [4, 8, 8]]])  # one loop; the first thought lags behind at its end
    shares = shares_said(tokens, meant, earlier=0)
    assert shares.tolist() == [[0.5, 1.0, 0.0]]
    lagging = shares_said(tokens, meant, earlier=1)[0]
    assert lagging[0].isnan() and lagging[1:].tolist() == [0.0, 1.0]  # before the first latent there is none
    assert shares_said(tokens, meant, earlier=3).isnan().all()
