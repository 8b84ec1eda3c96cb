"""AV-MNIST: written digits with spoken ones, from MNIST, FSDD and ESC-50."""
