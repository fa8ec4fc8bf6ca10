"""What tokens know: a linear reading is fitted to some of them and tried on others."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def readable(tokens: Tensor, answers: Tensor, fitted: int, tried: Tensor | None = None, seed: int = 0) -> float:
    """Share of right answers on the pictures from `fitted` on, by a reading that was fitted to those before.

    tokens: [N, cells, D]; answers: [N], class numbers. Each cell is read alone; the likeliest class of any cell counts
    (log-sum-exp over cells). tried: other tokens of the same pictures to try the reading on.
    """
    told = tokens if tried is None else tried
    mean, deviation = tokens[:fitted].mean(dim=(0, 1)), tokens[:fitted].std(dim=(0, 1)) + 1e-6
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reading = nn.Linear(tokens.shape[-1], int(answers.max()) + 1)
    optimizer = torch.optim.Adam(reading.parameters(), lr=1e-2)
    given, wanted = (tokens[:fitted] - mean) / deviation, answers[:fitted]
    for _ in range(300):
        loss = functional.cross_entropy(torch.logsumexp(3 * reading(given), dim=1), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = torch.logsumexp(3 * reading((told[fitted:] - mean) / deviation), dim=1).argmax(dim=1)
    return float((found == answers[fitted:]).float().mean())
