// h5web on one file of the h5grove server: page.html?file=NAME
import React from 'react';
import { createRoot } from 'react-dom/client';
import { App, H5GroveProvider, createBasicFetcher } from '@h5web/app';
import '@h5web/app/dist/styles.css';

const file = new URLSearchParams(location.search).get('file');
createRoot(document.getElementById('root')).render(
  <H5GroveProvider url={location.origin} filepath={file} fetcher={createBasicFetcher()}>
    <App sidebarOpen={false} />
  </H5GroveProvider>,
);
