# SPDX-License-Identifier: Apache-2.0
"""One file per algorithm, each reading like the steps in its paper."""
