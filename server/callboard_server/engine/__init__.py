"""Who runs when: admission, the queue, the runs at work, and the streams that show them."""
