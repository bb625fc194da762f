"""The article's pair."""

from gan.networks import MLPDiscriminator, MLPGenerator

MNIST = (1, 28, 28)


def test_article_pair_has_the_sizes_of_the_article():
    def parameters(network):
        return sum(parameter.numel() for parameter in network.parameters())

    assert parameters(MLPGenerator(MNIST)) == 100 * 128 + 128 + 128 * 256 + 256 + 256 * 784 + 784 == 247_440
    assert parameters(MLPDiscriminator(MNIST)) == 784 * 256 + 256 + 256 * 128 + 128 + 128 * 1 + 1 == 233_985
