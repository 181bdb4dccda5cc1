"""The exact value of a policy for Bernoulli bandits with uniform priors, over all that can happen."""

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.domains.rl.policies import PolicyInput


def exact_value(policy, num_arms, num_pulls):
    """Expected total reward, for a policy that does not use its key: every pull and either reward are followed."""
    step = jax.jit(policy.step)
    key = jax.random.key(0)

    def value(memory, action, reward, counts, remaining):
        inputs = PolicyInput(
            jnp.zeros(1), jnp.array(action, jnp.int32), jnp.array(reward, jnp.float32), jnp.array(action >= 0)
        )
        memory, decision = step({}, memory, inputs, key)
        total = 0.0
        for arm, probability in enumerate(np.asarray(jax.nn.softmax(decision.distribution.logits), np.float64)):
            if probability == 0:
                continue
            mean = (1 + counts[arm, 1]) / (2 + counts[arm].sum())
            total += probability * mean
            if remaining > 1:
                for paid, chance in ((0, 1 - mean), (1, mean)):
                    after = counts.copy()
                    after[arm, paid] += 1
                    total += probability * chance * value(memory, arm, float(paid), after, remaining - 1)
        return total

    return value(policy.start({}, key), -1, 0.0, np.zeros((num_arms, 2)), num_pulls)
