"""`digits-cnn`: a small classifier trained on the store's training images, whose pooled features serve the metrics.

Trained on shifted copies of the images, so that features answer to shape rather than to pixels. Everything about it is fixed here:
a number that is compared across runs must come from one and the same network.

Shapes: B batch, C channels, H W height and width of images, h w those of a map, D features, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mudit import random
from mudit.evaluate.threads import one_thread

FEATURES = 64
_MAPS = 6  # layers of the body up to the second convolution's activations
_EPOCHS, _BATCH, _SEED = 12, 64, 0
_PEAK_LR, _WEIGHT_DECAY, _MAX_SHIFT = 4e-3, 1e-2, 1


class DigitsCNN(nn.Module):
    """Three convolutions, mean pooling to 64 features, one linear layer to the classes."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1, stride=2),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Conv2d(64, FEATURES, 3, padding=1),
            nn.BatchNorm2d(FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, num_classes)

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B, C, H, W] -> features [B, D] and logits [B, K], float32."""
        return self.top(self.maps(images_BCHW))

    def maps(self, images_BCHW: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> what the second convolution makes of it, float32 [B, 64, H/2, W/2]."""
        maps_BChw: Tensor = self.body[:_MAPS](images_BCHW.float() / 127.5 - 1.0)
        return maps_BChw

    def top(self, maps_BChw: Tensor) -> tuple[Tensor, Tensor]:
        """The rest of the way: features [B, D] and logits [B, K], float32."""
        features_BD = self.body[_MAPS:](maps_BChw).mean(dim=(2, 3))
        return features_BD, self.head(features_BD)


def train(images_NCHW: Tensor, labels_N: Tensor, num_classes: int) -> DigitsCNN:
    """Trains on uint8 images and int64 labels: AdamW, one-cycle learning rate, random shifts. A pure function of its arguments.

    Runs on one thread: the weights must not depend on the machine's load.
    """
    with one_thread():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random.torch_seed(_SEED, "digits-cnn"))
            network = DigitsCNN(images_NCHW.shape[1], num_classes)
        _fit(network, images_NCHW, labels_N)
    return network.eval()


def _fit(network: DigitsCNN, images_NCHW: Tensor, labels_N: Tensor) -> None:
    count = len(labels_N)
    steps_per_epoch = max(1, count // _BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_PEAK_LR, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_LR, total_steps=_EPOCHS * steps_per_epoch)
    network.train()
    for epoch in range(_EPOCHS):
        order_N = random.permutation(_SEED, "digits-cnn-order", epoch, count)
        shifted_NCHW = _shifted(images_NCHW, epoch)
        for step in range(steps_per_epoch):
            batch_B = order_N[step * _BATCH : (step + 1) * _BATCH]
            _, logits_BK = network(shifted_NCHW[batch_B])
            loss = F.cross_entropy(logits_BK, labels_N[batch_B])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _shifted(images_NCHW: Tensor, epoch: int) -> Tensor:
    """Each image moved by up to one pixel each way, the border repeated."""
    count, _, height, width = images_NCHW.shape
    padded_NCHW = F.pad(images_NCHW.float(), (_MAX_SHIFT,) * 4, mode="replicate").to(torch.uint8)
    index_N = torch.arange(count)
    down_N, right_N = (
        random.integers(_SEED, f"digits-cnn-{axis}", epoch, index_N, 2 * _MAX_SHIFT + 1) for axis in ("down", "right")
    )
    rows_NH = down_N[:, None] + torch.arange(height)
    columns_NW = right_N[:, None] + torch.arange(width)
    return padded_NCHW[index_N[:, None, None], :, rows_NH[:, :, None], columns_NW[:, None, :]].permute(0, 3, 1, 2)
